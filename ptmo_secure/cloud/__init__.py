"""Cloud models over the OpenAI API: providers, caps, one way out, and the log of what went out."""
