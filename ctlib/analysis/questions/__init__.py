"""The questions of the report, one module a question: each gives a sentence, a figure and a table."""
