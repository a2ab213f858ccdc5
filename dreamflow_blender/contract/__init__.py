"""Messages and mesh files that both processes share. Standard library and numpy only."""
