"""What could run on this device and what is here already: names, sources, files and their headers."""
