"""The home agent: binding cache, registration rules, engine (pure) and the daemon around it."""
