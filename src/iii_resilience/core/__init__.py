"""What an error means and what to do about it: no SDK, no files, no threads of its own."""
