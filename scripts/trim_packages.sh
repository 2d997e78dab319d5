#!/bin/sh
# Deletes from installed packages what nothing needs that runs them: most of TensorFlow's and CUDA's files that are not
# libraries, and CUDA's libraries that TensorFlow never loads.
# Usage: scripts/trim_packages.sh SITE_PACKAGES
set -eu
packages=${1:?expected the folder site-packages}
cd "$packages"

# Headers, static libraries, tests, and bytecode: the Dockerfile compiles what is left.
find . -type d \( -name __pycache__ -o -path '*/tests' -o -path ./tensorflow/include -o -path './nvidia/*/include' \
  -o -path ./numpy/_core/include -o -path ./tensorflow/xla_aot_runtime_src \) -prune -exec rm -rf {} +
find . -type f \( -name '*.a' -o -name '*.lib' -o -name '*.h' -o -name '*.hpp' -o -name '*.cuh' -o -name '*.pyi' \
  -o -name '*.pxd' \) -delete

# Installers, and libclang, which only builds TensorFlow's own tools.
rm -rf clang setuptools _distutils_hack distutils-precedence.pth pkg_resources wheel
rm -rf libclang-*.dist-info setuptools-*.dist-info wheel-*.dist-info

# Of the compiler's package XLA needs ptxas and libdevice; libnvvm is for programs that compile CUDA.
rm -rf nvidia/cuda_nvcc/nvvm/lib64
# Multi-GPU solvers, another build of the run-time compiler, and CUDA's imitations of BLAS and FFTW.
for library in cusolver/lib/libcusolverMg cuda_nvrtc/lib/libnvrtc.alt cuda_nvrtc/lib/libnvrtc-builtins.alt \
  cublas/lib/libnvblas cufft/lib/libcufftw; do
  rm -f "nvidia/$library".so*
done
