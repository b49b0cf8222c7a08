"""What makes this project's own documents and checks its statistics; no part of the installed package."""
