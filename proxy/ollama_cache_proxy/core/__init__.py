"""One exchange from top to bottom: intake, lookup, flights, delivery, and the Protocols and facts that they share."""
