"""Pictures: sizes, files, panels, contact sheets, ranking."""
