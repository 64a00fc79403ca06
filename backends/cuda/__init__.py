"""CUDA: kernels scheduled for threads, cubins by NVRTC, a host program on the driver API, an emulator.

select       fused groups with a kernel written by hand: `recurrent` (LSTM, GRU, RNN)
generic      any TE group -> kernels: `stages` says which stages lie in memory, `unit` inlines the rest, and each is
             scheduled by `matmul` (tiled convolution and GEMM), `rows` (softmax, norms) or `schedule` (all else)
imperative   operators that are programs: a thread a task
lower        s_tir schedule -> CUDA C, arguments in the order of `Call.args`
nvrtc        CUDA C -> cubin, without a GPU
host         the artifact's C program (host.c, host.h) and its tables
emulator     the same CUDA C on the CPU, and a libcuda.so.1 made of it
"""
