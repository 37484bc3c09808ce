"""Who may ask for what: API keys with scopes and rates, from a file that may change."""
