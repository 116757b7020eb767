"""What every part stands on: files, text from outside, memory, processes, progress."""
