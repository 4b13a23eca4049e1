"""What is measured beside peers that people know; nothing here is part of the package."""
