"""The challenge's tasks, all behind one interface."""
