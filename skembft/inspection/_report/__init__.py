"""The page that `RetrievalComparison.to_html` writes: template, pictures and data."""
