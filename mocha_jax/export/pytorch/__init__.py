"""What an exported folder holds of code: copied into it, never imported."""
