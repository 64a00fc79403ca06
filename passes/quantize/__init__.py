"""From fake quantization (QuantizeLinear and DequantizeLinear around float operators) to integer computation."""
