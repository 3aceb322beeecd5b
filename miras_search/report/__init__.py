"""Records to what people read: tables, figures and one HTML file. Nothing here trains."""
