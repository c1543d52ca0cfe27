"""What an answer may go on with, guessed at little cost, so that a route can check several tokens in one round."""
