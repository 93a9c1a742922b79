"""Stub CUDA libraries: with them ONNX Runtime's real CUDA provider loads on a machine without a GPU.

Graph optimization, the placement of every node, the creation of kernels, IO binding and the capture of CUDA graphs are
the provider's own; kernels do nothing, so outputs hold whatever was in memory. Device memory is ordinary memory, and
copies to and from it are real.

The libraries are built by gcc from the list of functions that the provider needs, and loaded into the process before
the provider: the dynamic loader takes a library that is loaded under the name that it looks for.
"""

import ctypes
import importlib.util
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_RUNTIME = "libcudart.so.13"
_RANDOM = "libcurand.so.10"
_DRIVER = "libcuda.so.1"
# Functions of these two have no version that names their library.
_UNVERSIONED = (_RANDOM, _DRIVER)

# The error of a call that is not allowed while any stream is captured in global mode, the mode of ONNX Runtime.
_UNLESS_CAPTURED = "if (capturing) return 900;"
_MALLOC = f"{{ {_UNLESS_CAPTURED} *pointer = calloc(1, size + 256); return 0; }}"
_HANDLE = "{ *handle = calloc(1, 64); return 0; }"
_FREE = f"{{ {_UNLESS_CAPTURED} free(pointer); return 0; }}"
_SYNCHRONIZE = f"{{ {_UNLESS_CAPTURED} return 0; }}"
_VERSION = "{ *version = 13000; return 0; }"
_NAME = '{ return "stub"; }'
# Functions of the driver that are looked up by name: by the provider, for its precompiled attention kernels, and by
# embedrt, for the cards.
_LOOKED_UP = (
    "cuGetErrorName",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuInit",
    "cuFuncSetAttribute",
    "cuFuncSetCacheConfig",
    "cuLinkAddData_v2",
    "cuLinkAddFile_v2",
    "cuLinkComplete",
    "cuLinkCreate_v2",
    "cuLinkDestroy",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuLaunchCooperativeKernel",
    "cuLaunchKernel",
)
_ATTRIBUTE = """{
    switch (attribute) {
        case 8: *value = shared_memory; break;
        case 10: *value = 32; break;
        case 16: *value = multiprocessors; break;
        case 75: *value = capability / 10; break;
        case 76: *value = capability % 10; break;
        case 97: *value = shared_memory_at_most; break;
        default: *value = 1024;
    }
    return 0;
}"""
# Functions that must do something; all others return 0, which is success. Offsets are those of cudaDeviceProp in
# CUDA 13, and the attributes are members of cudaDeviceAttr.
_BODIES = {
    "cudaGetDeviceCount": "int {}(int *count) { *count = devices; return 0; }",
    "cudaGetDevice": "int {}(int *device) { *device = device_of_thread; return 0; }",
    "cudaSetDevice": "int {}(int device) { device_of_thread = device; return 0; }",
    "cudaGetDeviceProperties": """int {}(char *properties, int device) {
    memset(properties, 0, 1008);
    *(size_t *)(properties + 288) = memory;
    *(size_t *)(properties + 296) = shared_memory;
    *(int *)(properties + 308) = 32;    /* threads of a warp */
    *(int *)(properties + 320) = 1024;  /* threads of a block */
    *(int *)(properties + 360) = capability / 10;
    *(int *)(properties + 364) = capability % 10;
    *(int *)(properties + 384) = multiprocessors;
    *(size_t *)(properties + 672) = shared_memory_at_most;
    return 0;
}""",
    "cudaDeviceGetAttribute": f"int {{}}(int *value, int attribute, int device) {_ATTRIBUTE}",
    "cuDeviceGetAttribute": f"int {{}}(int *value, int attribute, int device) {_ATTRIBUTE}",
    "cuDeviceGet": "int {}(int *device, int index) { *device = index; return 0; }",
    "cuDeviceGetCount": "int {}(int *count) { *count = devices; return 0; }",
    "cuDeviceGetName": 'int {}(char *name, int size, int device) { strncpy(name, "stub", size); return 0; }',
    "cuDeviceTotalMem_v2": "int {}(size_t *size, int device) { *size = memory; return 0; }",
    "cuDriverGetVersion": f"int {{}}(int *version) {_VERSION}",
    "cudaMemGetInfo": "int {}(size_t *available, size_t *total) { *available = *total = memory; return 0; }",
    "cudaMalloc": f"int {{}}(void **pointer, size_t size) {_MALLOC}",
    "cudaMallocHost": f"int {{}}(void **pointer, size_t size) {_MALLOC}",
    "cudaHostAlloc": f"int {{}}(void **pointer, size_t size, unsigned flags) {_MALLOC}",
    "cudaMallocFromPoolAsync": f"int {{}}(void **pointer, size_t size, void *pool, void *stream) {_MALLOC}",
    "cudaFree": f"int {{}}(void *pointer) {_FREE}",
    "cudaFreeHost": f"int {{}}(void *pointer) {_FREE}",
    "cudaFreeAsync": f"int {{}}(void *pointer, void *stream) {_FREE}",
    "cudaMemcpy": f"""int {{}}(void *to, void *from, size_t size, int kind) {{
    {_UNLESS_CAPTURED}
    memcpy(to, from, size);
    return 0;
}}""",
    "cudaMemcpyAsync": """int {}(void *to, void *from, size_t size, int kind, void *stream) {
    memcpy(to, from, size);
    return 0;
}""",
    "cudaMemset": "int {}(void *to, int value, size_t size) { memset(to, value, size); return 0; }",
    "cudaMemsetAsync": """int {}(void *to, int value, size_t size, void *stream) {
    memset(to, value, size);
    return 0;
}""",
    "cudaStreamCreate": f"int {{}}(void **handle) {_HANDLE}",
    "cudaStreamCreateWithFlags": f"int {{}}(void **handle, unsigned flags) {_HANDLE}",
    "cudaStreamDestroy": f"int {{}}(void *pointer) {_FREE}",
    "cudaDeviceSynchronize": f"int {{}}(void) {_SYNCHRONIZE}",
    "cudaStreamSynchronize": f"int {{}}(void *stream) {_SYNCHRONIZE}",
    "cudaEventSynchronize": f"int {{}}(void *event) {_SYNCHRONIZE}",
    "cudaStreamBeginCapture": "int {}(void *stream, int mode) { capturing = 1; return 0; }",
    "cudaStreamIsCapturing": "int {}(void *stream, int *status) { *status = capturing; return 0; }",
    "cudaStreamEndCapture": "int {}(void *stream, void **graph) { capturing = 0; *graph = calloc(1, 64); return 0; }",
    "cudaGraphInstantiate": f"int {{}}(void **handle, void *graph, unsigned flags) {_HANDLE}",
    "cudaGraphDestroy": f"int {{}}(void *pointer) {_FREE}",
    "cudaGraphExecDestroy": f"int {{}}(void *pointer) {_FREE}",
    "cudaEventCreate": f"int {{}}(void **handle) {_HANDLE}",
    "cudaEventCreateWithFlags": f"int {{}}(void **handle, unsigned flags) {_HANDLE}",
    "cudaEventDestroy": f"int {{}}(void *pointer) {_FREE}",
    "cublasCreate_v2": f"int {{}}(void **handle) {_HANDLE}",
    "cublasDestroy_v2": f"int {{}}(void *pointer) {_FREE}",
    "cublasLtMatmulAlgoGetHeuristic": """int {}(void *lt, void *matmul, void *a, void *b, void *c, void *d,
       void *preference, int wanted, void *results, int *found) {
    *found = 1;
    return 0;
}""",
    "cublasLtCreate": f"int {{}}(void **handle) {_HANDLE}",
    "cublasLtDestroy": f"int {{}}(void *pointer) {_FREE}",
    "__cudaRegisterFatBinary": "void *{}(void *binary) { return binary; }",
    "cudaRuntimeGetVersion": f"int {{}}(int *version) {_VERSION}",
    "cudaDriverGetVersion": f"int {{}}(int *version) {_VERSION}",
    "cudaGetErrorString": f"const char *{{}}(int error) {_NAME}",
    "cudaGetErrorName": f"const char *{{}}(int error) {_NAME}",
    "cublasGetStatusString": f"const char *{{}}(int status) {_NAME}",
    "cublasGetStatusName": f"const char *{{}}(int status) {_NAME}",
}
_DEFAULT_BODY = "long {}(void) { return 0; }"
_PREAMBLE = """#include <stdlib.h>
#include <string.h>
static int capability = 90, devices = 1, capturing = 0;
static __thread int device_of_thread = 0;
static const size_t memory = 1UL << 36;
static const int multiprocessors = 132, shared_memory = 49152, shared_memory_at_most = 232448;
"""
_CONFIGURE = """void stub_configure(int new_capability, int new_devices) {
    capability = new_capability;
    devices = new_devices;
}
"""


class StubError(Exception):
    """The stub libraries cannot be built or loaded here; the message has the remedy."""


@dataclass(frozen=True)
class StubCuda:
    """Loaded stub libraries.

    Attributes:
        folder: Their folder, for the loader of another process.
        libraries: The CUDA runtime and the driver, whose answers can be chosen.
    """

    folder: Path
    libraries: tuple[ctypes.CDLL, ...]

    def configure(self, capability: int, devices: int = 1) -> None:
        """Choose the compute capability of the card, such as 90, and the number of cards, for sessions made later."""
        for library in self.libraries:
            library.stub_configure(capability, devices)


def load_stubs(folder: Path) -> StubCuda:
    """Build the stub libraries into a folder, and load them; before the first CUDA session of the process.

    Raises:
        StubError: ONNX Runtime has no CUDA provider here, or gcc or nm is missing.
    """
    found = importlib.util.find_spec("onnxruntime")
    if found is None or found.origin is None:
        raise StubError("expected the package onnxruntime-gpu, found no onnxruntime; run `make test-cuda-placement`")
    built = build_stubs(provider_library(Path(found.origin).parent / "capi"), folder)
    libraries = {path.name: ctypes.CDLL(str(path)) for path in built}
    return StubCuda(folder, (libraries[_RUNTIME], libraries[_DRIVER]))


def provider_library(folder: Path) -> Path:
    """The CUDA provider among ONNX Runtime's libraries.

    Raises:
        StubError: There is none.
    """
    library = folder / "libonnxruntime_providers_cuda.so"
    if not library.is_file():
        raise StubError(
            f"expected {library}, found the CPU build of onnxruntime; uninstall it and install onnxruntime-gpu, or run "
            "`make test-cuda-placement`"
        )
    return library


def build_stubs(provider: Path, folder: Path) -> tuple[Path, ...]:
    """Build a stub of every CUDA library that a provider library needs, and return them.

    Raises:
        StubError: gcc or nm is missing, or failed.
    """
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            raise StubError(f"expected the program {tool}, which builds the stub CUDA libraries; not found on PATH")
    folder.mkdir(parents=True, exist_ok=True)
    listing = _run(["nm", "-D", "--undefined-only", str(provider)])
    return tuple(_build(name, functions, folder) for name, functions in cuda_functions(listing).items())


def cuda_functions(listing: str) -> Mapping[str, list[str]]:
    """The CUDA functions among the undefined symbols that nm lists, by the library that they are taken from."""
    functions: dict[str, list[str]] = {_RUNTIME: [], _RANDOM: [], _DRIVER: list(_LOOKED_UP)}
    for name, library in _cuda_symbols(listing):
        functions.setdefault(library, []).append(name)
    return functions


def _cuda_symbols(listing: str) -> Iterator[tuple[str, str]]:
    for line in listing.splitlines():
        name, _, version = line.split()[-1].partition("@")
        library = version.lstrip("@")
        if library.startswith(("libcuda", "libcublas")):
            yield name, library
        elif not library and name.startswith("curand"):
            yield name, _RANDOM
        elif not library and name.startswith("cu"):
            yield name, _DRIVER


def _build(library: str, functions: list[str], folder: Path) -> Path:
    source, versions, built = (folder / f"{library}{ending}" for ending in (".c", ".map", ""))
    bodies = [_BODIES.get(name, _DEFAULT_BODY).replace("{}", name, 1) for name in functions]
    source.write_text("\n".join([_PREAMBLE, *bodies, _CONFIGURE]))
    versions.write_text(f"{library} {{ global: *; }};\n")
    # The provider asks for its functions with the library's name as their version.
    script = [] if library in _UNVERSIONED else [f"-Wl,--version-script={versions}"]
    _run(["gcc", "-w", "-shared", "-fPIC", f"-Wl,-soname,{library}", *script, "-o", str(built), str(source)])
    return built


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StubError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout
