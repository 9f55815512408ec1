"""What a person types and sees. Commands are thin: parse, call one stage, show what it returned."""
