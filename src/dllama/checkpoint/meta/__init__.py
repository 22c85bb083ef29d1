"""Models as Meta and Mistral publish them: params.json and consolidated.*, under names of their own."""
