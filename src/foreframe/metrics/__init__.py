"""Scores: of images, of tokens, and how sure a mean over clips is."""
