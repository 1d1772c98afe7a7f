// What NVRTC knows by itself, as far as kernels.cu uses it, for compilers of CPUs; and a launch that
// runs one thread after the other. No header, so that a bare compiler will do.

#ifdef _WIN32
#define EXPORT extern "C" __declspec(dllexport)
EXPORT int DllMainCRTStartup(void*, unsigned, void*) { return 1; }
#else
#define EXPORT extern "C"
#endif
#define __device__
#define __global__
#define __launch_bounds__(threads)

struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
static struct { unsigned x, y, z; } blockIdx, blockDim, threadIdx;

template <class T> static inline T __ldg(const T* address) { return *address; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline float fminf(float a, float b) { return b != b || a < b ? a : b; }
static inline float fmaxf(float a, float b) { return b != b || a > b ? a : b; }
static inline float rintf(float x) { return (x + 12582912.0f) - 12582912.0f; }  // up to 2^22
static inline float expf(float x) {
    double power = fmaxf(fminf(x, 200), -200) / 256.0, term = 1, sum = 1;
    for (int i = 1; i < 8; i++) sum += term *= power / i;
    for (int i = 0; i < 8; i++) sum *= sum;
    return sum;
}

template <class To, class From> static inline To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To bits;
    __builtin_memcpy(&bits, &value, sizeof(To));
    return bits;
}
static inline float __uint_as_float(unsigned bits) { return bits_as<float>(bits); }
static inline unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
static inline float half_bits_to_float(unsigned short half) {
    const unsigned magnitude = half & 0x7fff, sign = (half & 0x8000) << 16;
    unsigned bits = (magnitude << 13) | 0x7f800000;  // infinite, or NaN
    if (magnitude < 0x7c00) bits = __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f);
    return __uint_as_float(bits | sign);
}
static inline unsigned short float_to_half_bits(float value) {
    const unsigned magnitude = __float_as_uint(value) & 0x7fffffff;
    const unsigned sign = (__float_as_uint(value) & 0x80000000) >> 16;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x47800000) return sign | 0x7c00;
    if (magnitude < 0x38800000)  // the sum is rounded to steps of 2^-24
        return sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000);
    return sign | ((magnitude - (112 << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13);
}

struct Argument {
    void* pointer;
    template <class T> operator T() const { return *(T*)pointer; }
};

template <class... P, class... Some>
static void call(void (*kernel)(P...), void** pointers, Some... arguments) {
    if constexpr (sizeof...(Some) < sizeof...(P))
        call(kernel, pointers, arguments..., Argument{pointers[sizeof...(Some)]});
    else
        kernel(arguments...);
}

template <class... P>
static void
launch(void (*kernel)(P...), const unsigned* grid, const unsigned* block, void** pointers) {
    blockDim = {block[0], block[1], block[2]};
    for (blockIdx.z = 0; blockIdx.z < grid[2]; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid[1]; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid[0]; blockIdx.x++)
                for (threadIdx.y = 0; threadIdx.y < block[1]; threadIdx.y++)
                    for (threadIdx.x = 0; threadIdx.x < block[0]; threadIdx.x++)
                        call(kernel, pointers);
}
