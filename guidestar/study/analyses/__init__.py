"""Why a strategy did what it did, as pure functions: similarity of layers, training dynamics, picks."""
