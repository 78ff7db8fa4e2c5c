"""Text and pictures as tokens: tokenizer, vocabulary, prompt templates, prompt rewriting."""
