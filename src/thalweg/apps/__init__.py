"""Applications, written on the public interface alone."""
