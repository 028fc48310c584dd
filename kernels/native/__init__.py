"""The kernels of a CPU in C++; common/native.py imports the variant that fits."""
