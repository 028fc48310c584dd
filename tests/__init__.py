"""A package, so that ranks started by a test can import it by name even where some dependency installs a `tests` of its
own."""
