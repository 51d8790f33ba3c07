"""How much memory and time an iteration takes, known before anything is loaded; and settings that fit a card."""
