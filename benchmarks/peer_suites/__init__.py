"""Other tools' own tests, run on this instrument through one thin shim a tool."""
