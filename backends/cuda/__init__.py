"""CUDA: kernels scheduled for threads, cubins by NVRTC, a host program on the driver API, an emulator.

stages     which TE stages become kernels and which are inlined
schedule   threads for one kernel: one element a thread, a warp a reduction, a tile a block
lower      s_tir schedule -> CUDA C source with the argument order of `Call.args`
generic    a fused group -> kernels            matmul      tiled convolution and GEMM
nvrtc      source -> cubin, without a GPU      host        the C program around the kernels
emulator   the same source on the CPU, and a libcuda.so.1 made of it
"""
