"""hivectl: one module a group of commands. Commands compute; `output` alone prints."""
