"""Setting weights to zero by their magnitude."""
