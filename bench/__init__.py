"""Speed, memory and error of transfers, measured side by side."""
