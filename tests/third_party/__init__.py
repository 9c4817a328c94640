"""Plugins and transports as third parties would write them: public names only, one text for all three worlds."""
