"""The tab, in gradio, for every host. It works with gradio 3.41.2 and 4.40."""
