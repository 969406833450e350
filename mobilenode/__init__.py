"""The mobile node or mobile router: binding update list, movement, policy, engine (pure) and the daemon around it."""
