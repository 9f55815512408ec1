"""What tests share: models, SAEs and texts to work on, and second routes to the numbers."""
