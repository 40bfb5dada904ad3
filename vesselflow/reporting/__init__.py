"""What a person looks at: terminal, figures, TensorBoard."""
