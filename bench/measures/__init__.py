"""What is measured; one class per kind, recording metrics named `<measure>.<detail>`."""
