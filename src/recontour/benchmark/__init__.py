"""Many slides, many outlines, many methods: measured alike, and tabled as the papers do."""
