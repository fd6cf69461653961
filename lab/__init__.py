"""The lab: small, really trained Stable Diffusion models, and what moving a LoRA between them is worth.

Nothing here runs inside the WebUI. It needs the ``lab`` extra (``pip install -e .[lab]``) and npm.
"""
