// The kernels in CUDA C. NVRTC compiles them, nvrtc_kernels.py launches them.
//
// Neither flow nor a warped frame is ever stored at full size: flow and mask are evaluated where
// they are needed, from the blocks' outputs; sampling, the mean of 2x2 pixels and changes of layout
// and dtype happen in registers. Each thread computes one pixel, on its own. All arithmetic is
// float32.
//
// ../estimation.py does the same in plain torch, and the tests compare the two; they compile this
// file for the CPU, too.

#ifdef __CUDACC__  // NVRTC comes without headers, and so without names for these instructions
__device__ inline float half_bits_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ inline unsigned short float_to_half_bits(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
#endif

/// A kernel launched in blocks of 128 threads. Without that bound, the compiler would give a thread
/// 64 registers at most.
#define KERNEL __global__ void __launch_bounds__(128)

// Dtypes of tensors

struct Half { unsigned short bits; };
struct BFloat16 { unsigned short bits; };

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(Half value) { return half_bits_to_float(value.bits); }
__device__ inline float to_float(BFloat16 value) {
    return __uint_as_float((unsigned)value.bits << 16);
}
/// Bytes 0 to 255 stand for 0 to 1.
__device__ inline float to_float(unsigned char value) { return value * (1.0f / 255.0f); }

__device__ inline void from_float(float value, float& stored) { stored = value; }
__device__ inline void from_float(float value, Half& stored) {
    stored.bits = float_to_half_bits(value);
}
__device__ inline void from_float(float value, BFloat16& stored) {
    const unsigned bits = __float_as_uint(value);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    stored.bits = is_nan ? 0x7fffu : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // ties to even
}
__device__ inline void from_float(float value, unsigned char& stored) {
    stored = (unsigned char)rintf(value * 255.0f);  // ties to even, as in torch
}

// Memory: a thread moves as many values at once as it can

template <int BYTES> struct Word;
template <> struct Word<16> { using type = uint4; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<4> { using type = unsigned; };
template <> struct Word<2> { using type = unsigned short; };
template <> struct Word<1> { using type = unsigned char; };

/// N neighbouring values, at an address that is a multiple of their size.
template <class T, int N> union Pack {
    typename Word<N * sizeof(T)>::type word;
    T values[N];
};

/// How many values to move at once, up to 16 bytes: `count` values have to be moved, at an address
/// that is a multiple of `aligned` values.
template <class T> __device__ constexpr int pack_size(int count, int aligned) {
    constexpr int limit = 16 / sizeof(T);
    // The largest power of two that divides both.
    const int power_of_two = (count | aligned) & -(count | aligned);
    return power_of_two < limit ? power_of_two : limit;
}

/// Reads values that no thread writes. (The compiler would split a plain read into smaller ones.)
template <int N, int ALIGNED, class T>
__device__ inline void load(const T* source, float (&values)[N]) {
    constexpr int PACK = pack_size<T>(N, ALIGNED);
    for (int first = 0; first < N; first += PACK) {
        Pack<T, PACK> pack;
        pack.word = __ldg((const decltype(pack.word)*)(source + first));
        for (int c = 0; c < PACK; c++) values[first + c] = to_float(pack.values[c]);
    }
}

template <int N, int ALIGNED, class T>
__device__ inline void store(T* target, const float (&values)[N]) {
    constexpr int PACK = pack_size<T>(N, ALIGNED);
    for (int first = 0; first < N; first += PACK) {
        Pack<T, PACK> pack;
        for (int c = 0; c < PACK; c++) from_float(values[first + c], pack.values[c]);
        *(decltype(pack.word)*)(target + first) = pack.word;
    }
}

/// Samples an image bilinearly at any (y, x); beyond its border it repeats. Reads N of a pixel's
/// CHANNELS, from the one that `image` points to, at addresses that are multiples of ALIGNED
/// values.
template <int N, int CHANNELS, int ALIGNED, class T>
__device__ inline void
sample(const T* image, float y, float x, int height, int width, float (&values)[N]) {
    y = fminf(fmaxf(y, 0.0f), height - 1.0f);  // NaN becomes 0
    x = fminf(fmaxf(x, 0.0f), width - 1.0f);
    const int top = (int)y, left = (int)x;
    const int bottom = min(top + 1, height - 1), right = min(left + 1, width - 1);
    const float down = y - top, over = x - left;
    float a[N], b[N], c[N], d[N];
    load<N, ALIGNED>(image + (top * width + left) * CHANNELS, a);
    load<N, ALIGNED>(image + (top * width + right) * CHANNELS, b);
    load<N, ALIGNED>(image + (bottom * width + left) * CHANNELS, c);
    load<N, ALIGNED>(image + (bottom * width + right) * CHANNELS, d);
    for (int i = 0; i < N; i++) {
        const float upper = a[i] * (1 - over) + b[i] * over;
        const float lower = c[i] * (1 - over) + d[i] * over;
        values[i] = upper * (1 - down) + lower * down;
    }
}

// Blocks' outputs

/// One block's output, (B, height / FACTOR, width / FACTOR, PLANES) for frames of height x width:
/// flow (4 planes, in pixels of the block), the mask before its sigmoid, and features for the next
/// block. It is upscaled FACTOR times, and flow then multiplied by FACTOR.
template <class T, int PLANES, int FACTOR> struct BlockOutput {
    const T* planes;

    /// The planes of the b-th pair; height, width: of the frame.
    __device__ const T* of_pair(int b, int height, int width) const {
        return planes + (long long)b * ((height / FACTOR) * (width / FACTOR) * PLANES);
    }
};

/// COUNT planes from plane FIRST on, upscaled FACTOR times, at (y, x) of the larger grid. height,
/// width: of the planes.
template <int FIRST, int COUNT, int PLANES, int FACTOR, class T>
__device__ inline void
upsample(const T* planes, int y, int x, int height, int width, float (&values)[COUNT]) {
    constexpr int ALIGNED = PLANES | FIRST;
    if constexpr (FACTOR == 1) {
        load<COUNT, ALIGNED>(planes + (y * width + x) * PLANES + FIRST, values);
    } else {
        const float v = (y + 0.5f) * (1.0f / FACTOR) - 0.5f;
        const float u = (x + 0.5f) * (1.0f / FACTOR) - 0.5f;
        sample<COUNT, PLANES, ALIGNED>(planes + FIRST, v, u, height, width, values);
    }
}

/// Flow from a pixel of the new frame to the first and to the second frame, in pixels.
struct Flow {
    float x0, y0, x1, y1;
};

template <class T, int PLANES, int FACTOR>
__device__ inline void add_flow(
    BlockOutput<T, PLANES, FACTOR> output, int b, int y, int x, int height, int width, Flow& flow
) {
    float values[4];
    const T* planes = output.of_pair(b, height, width);
    upsample<0, 4, PLANES, FACTOR>(planes, y, x, height / FACTOR, width / FACTOR, values);
    flow.x0 += FACTOR * values[0];
    flow.y0 += FACTOR * values[1];
    flow.x1 += FACTOR * values[2];
    flow.y1 += FACTOR * values[3];
}

/// The sum of the flow of all blocks, at (y, x) of the frame.
template <class... Outputs>
__device__ inline Flow total_flow(int b, int y, int x, int height, int width, Outputs... outputs) {
    Flow flow = {0, 0, 0, 0};
    (add_flow(outputs, b, y, x, height, width, flow), ...);
    return flow;
}

/// Adds what the last block passed on or, if ADDS_MASKS, what all blocks did, at (y, x) of the
/// frame downscaled SCALE times: the first COUNT of the mask before its sigmoid and the features.
template <bool ADDS_MASKS, int SCALE, int COUNT>
__device__ inline void add_passed(int, int, int, int, int, float (&)[COUNT]) {}

template <bool ADDS_MASKS, int SCALE, int COUNT, class T, int PLANES, int FACTOR, class... Rest>
__device__ inline void add_passed(
    int b, int y, int x, int height, int width, float (&passed)[COUNT],
    BlockOutput<T, PLANES, FACTOR> output, Rest... rest
) {
    if constexpr (ADDS_MASKS || sizeof...(rest) == 0) {
        constexpr bool BY_FOUR = COUNT > 1 && PLANES % 4 == 0;  // so that four move at once
        constexpr int READ = BY_FOUR ? (COUNT + 3) / 4 * 4 : COUNT;
        float values[READ];
        const T* planes = output.of_pair(b, height, width);
        upsample<4, READ, PLANES, FACTOR / SCALE>(
            planes, y, x, height / FACTOR, width / FACTOR, values
        );
        for (int p = 0; p < COUNT; p++) passed[p] += values[p];
    }
    add_passed<ADDS_MASKS, SCALE>(b, y, x, height, width, passed, rest...);
}

// Kernels. A thread's index is its pixel: column, row, pair (but for finish_convolution).

/// Writes a prepared frame, (height, width, CHANNELS): three colours, FEATURES and zeros. Beyond
/// the image, on the right and below, its border repeats.
///
/// images: (N, image_height, image_width, COLOURS). features: (height, width, FEATURES). source:
/// which of the images; target: which of the prepared frames, or null if there is only one.
template <class T, class Image, int COLOURS, int FEATURES, int CHANNELS>
KERNEL prepare_frame(
    T* __restrict__ prepared, const Image* images, const T* features, const long long* source,
    const long long* target, int height, int width, int image_height, int image_width
) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height) return;

    float values[CHANNELS] = {}, colours[COLOURS];
    const int image_pixel = min(y, image_height - 1) * image_width + min(x, image_width - 1);
    images += *source * image_height * image_width * COLOURS;
    load<COLOURS, COLOURS>(images + image_pixel * COLOURS, colours);
    for (int c = 0; c < 3; c++) values[c] = colours[COLOURS == 1 ? 0 : c];
    const int pixel = y * width + x;
    if constexpr (FEATURES > 0) {
        float feature[FEATURES];
        load<FEATURES, FEATURES>(features + pixel * FEATURES, feature);
        for (int c = 0; c < FEATURES; c++) values[3 + c] = feature[c];
    }
    if (target) prepared += *target * height * width * CHANNELS;
    store<CHANNELS, CHANNELS>(prepared + pixel * CHANNELS, values);
}

/// Writes a block's input, (B, height / SCALE, width / SCALE, INPUT_CHANNELS): both frames,
/// CHANNELS each, warped, if WARPED; the same as they are, if UNWARPED; the timestep, if TIME;
/// PASSED channels of mask and features; the flow, if FLOW; and zeros.
///
/// Downscaling a frame SCALE times is, exactly, the mean of the 2x2 pixels in the middle of each
/// cell, so only those are ever read.
///
/// frames: (N, height, width, CHANNELS). first, second: (B,), which of them. times: (B,).
template <
    class T, int SCALE, int CHANNELS, bool WARPED, bool UNWARPED, bool TIME, int PASSED, bool FLOW,
    bool ADDS_MASKS, int INPUT_CHANNELS, class... Outputs>
KERNEL gather_block_input(
    T* __restrict__ input, const T* __restrict__ frames, const long long* first,
    const long long* second, const float* times, int height, int width, Outputs... outputs
) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int b = blockIdx.z;
    if (x >= width / SCALE || y >= height / SCALE) return;

    constexpr int SIDE = SCALE > 1 ? 2 : 1;  // of the square of pixels that is read in a cell
    constexpr int PIXELS = SIDE * SIDE;
    constexpr float MEAN = 1.0f / PIXELS;
    constexpr bool HAS_FLOW = sizeof...(Outputs) > 0;
    const int top = y * SCALE + (SCALE - SIDE) / 2, left = x * SCALE + (SCALE - SIDE) / 2;
    const T* pair[2] = {
        frames + first[b] * height * width * CHANNELS,
        frames + second[b] * height * width * CHANNELS,
    };
    const int cell = y * (width / SCALE) + x;
    T* target = input + ((long long)b * (height / SCALE) * (width / SCALE) + cell) * INPUT_CHANNELS;

    Flow flows[PIXELS];
    Flow mean = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < PIXELS; i++) {
        const Flow flow = total_flow(b, top + i / SIDE, left + i % SIDE, height, width, outputs...);
        flows[i] = flow;
        mean.x0 += MEAN * flow.x0;
        mean.y0 += MEAN * flow.y0;
        mean.x1 += MEAN * flow.x1;
        mean.y1 += MEAN * flow.y1;
    }

    // All but the frames, which come last so that the mean flow need not be kept in registers.
    constexpr int START = 2 * CHANNELS * (WARPED + UNWARPED), REST = INPUT_CHANNELS - START;
    if constexpr (REST > 0) {
        float rest[REST] = {};
        if constexpr (TIME) rest[0] = times[b];
        if constexpr (PASSED > 0) {
            float passed[PASSED] = {};
            add_passed<ADDS_MASKS, SCALE>(b, y, x, height, width, passed, outputs...);
            for (int p = 0; p < PASSED; p++) rest[TIME + p] = passed[p];
        }
        if constexpr (FLOW) {
            rest[TIME + PASSED] = mean.x0 * (1.0f / SCALE);
            rest[TIME + PASSED + 1] = mean.y0 * (1.0f / SCALE);
            rest[TIME + PASSED + 2] = mean.x1 * (1.0f / SCALE);
            rest[TIME + PASSED + 3] = mean.y1 * (1.0f / SCALE);
        }
        store<REST, REST>(target + START, rest);
    }

    constexpr int PACK = pack_size<T>(CHANNELS, CHANNELS);
#pragma unroll
    for (int part = WARPED ? 0 : 2; part < (UNWARPED ? 4 : 2); part++) {
        const int k = part % 2;  // the first or the second frame
        const bool is_warped = part < 2 && HAS_FLOW;
#pragma unroll 1  // unrolled, it would need many more registers
        for (int channel = 0; channel < CHANNELS; channel += PACK) {
            float sum[PACK] = {};
#pragma unroll
            for (int i = 0; i < PIXELS; i++) {
                float pixel[PACK];
                const int row = top + i / SIDE, column = left + i % SIDE;
                if (is_warped) {
                    const float at_y = row + (k ? flows[i].y1 : flows[i].y0);
                    const float at_x = column + (k ? flows[i].x1 : flows[i].x0);
                    sample<PACK, CHANNELS, PACK>(
                        pair[k] + channel, at_y, at_x, height, width, pixel
                    );
                } else {
                    load<PACK, PACK>(
                        pair[k] + (row * width + column) * CHANNELS + channel, pixel
                    );
                }
                for (int c = 0; c < PACK; c++) sum[c] += MEAN * pixel[c];
            }
            store<PACK, PACK>(target + channel, sum);
        }
        target += CHANNELS;
    }
}

/// Writes the frames in between, (B, height, width, CHANNELS): both images warped and blended, and
/// the residual, (B, 3, motion_height, motion_width), added, if RESIDUAL. The motion goes beyond
/// the images on the right and below, where these repeat their border.
///
/// images: (N, height, width, CHANNELS). first, second: (B,), which of them.
template <class T, int CHANNELS, bool RESIDUAL, bool ADDS_MASKS, class... Outputs>
KERNEL render_frames(
    T* __restrict__ frames, const T* __restrict__ images, const long long* first,
    const long long* second, const float* residual, int height, int width, int motion_height,
    int motion_width, Outputs... outputs
) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int b = blockIdx.z;
    if (x >= width || y >= height) return;

    const long long size = (long long)height * width * CHANNELS;
    const Flow flow = total_flow(b, y, x, motion_height, motion_width, outputs...);
    float mask[1] = {};
    add_passed<ADDS_MASKS, 1>(b, y, x, motion_height, motion_width, mask, outputs...);
    const float share = 1 / (1 + expf(-mask[0]));
    float frame[CHANNELS], other[CHANNELS];
    sample<CHANNELS, CHANNELS, CHANNELS>(
        images + first[b] * size, y + flow.y0, x + flow.x0, height, width, frame
    );
    sample<CHANNELS, CHANNELS, CHANNELS>(
        images + second[b] * size, y + flow.y1, x + flow.x1, height, width, other
    );
    for (int c = 0; c < CHANNELS; c++) frame[c] = share * frame[c] + (1 - share) * other[c];
    if constexpr (RESIDUAL) {
        const int plane = motion_height * motion_width;
        residual += (long long)b * 3 * plane + y * motion_width + x;
        if constexpr (CHANNELS == 1) {
            frame[0] += (residual[0] + residual[plane] + residual[2 * plane]) * (1.0f / 3.0f);
        } else {
            for (int c = 0; c < 3; c++) frame[c] += residual[c * plane];
        }
    }
    for (int c = 0; c < CHANNELS; c++) frame[c] = fminf(fmaxf(frame[c], 0.0f), 1.0f);
    store<CHANNELS, CHANNELS>(frames + b * size + (y * width + x) * CHANNELS, frame);
}

/// Writes full-size flow in pixels and the mask before its sigmoid, (B, 5, height, width).
template <bool ADDS_MASKS, class... Outputs>
KERNEL full_size_motion(float* motion, int height, int width, Outputs... outputs) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int b = blockIdx.z;
    if (x >= width || y >= height) return;

    const int plane = height * width;
    const Flow flow = total_flow(b, y, x, height, width, outputs...);
    float mask[1] = {};
    add_passed<ADDS_MASKS, 1>(b, y, x, height, width, mask, outputs...);
    motion += (long long)b * 5 * plane + y * width + x;
    motion[0] = flow.x0;
    motion[plane] = flow.y0;
    motion[2 * plane] = flow.x1;
    motion[3 * plane] = flow.y1;
    motion[4 * plane] = mask[0];
}

/// Computes y + bias (+ residual), in place; where that is below zero, times the channel's slope.
/// Each thread does a pack of N neighbouring values: `count` packs, `channels` of them to a pixel.
template <class T, int N, bool RESIDUAL, bool SLOPES>
KERNEL finish_convolution(
    T* y, const T* residual, const T* bias, const T* slopes, unsigned count, unsigned channels
) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const unsigned channel = i % channels * N;
    y += (unsigned long long)i * N;
    float values[N], other[N];
    load<N, N>(y, values);
    load<N, N>(bias + channel, other);
    for (int c = 0; c < N; c++) values[c] += other[c];
    if constexpr (RESIDUAL) {
        load<N, N>(residual + (unsigned long long)i * N, other);
        for (int c = 0; c < N; c++) values[c] += other[c];
    }
    if constexpr (SLOPES) {
        load<N, N>(slopes + channel, other);
        for (int c = 0; c < N; c++) values[c] *= values[c] < 0 ? other[c] : 1.0f;
    }
    store<N, N>(y, values);
}

/// Does what follows a block's last convolution, y, (B, height, width, CHANNELS): adds its bias,
/// does a PixelShuffle(SHUFFLE) and pads with zeros to PLANES, the values of a pixel side by side.
template <class T, int CHANNELS, int SHUFFLE, int PLANES>
KERNEL pack_block_output(
    T* __restrict__ output, const T* __restrict__ y, const T* bias, int height, int width
) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int row = blockIdx.y * blockDim.y + threadIdx.y;
    const int b = blockIdx.z;
    if (column >= width * SHUFFLE || row >= height * SHUFFLE) return;

    constexpr int AREA = SHUFFLE * SHUFFLE;
    const int within = row % SHUFFLE * SHUFFLE + column % SHUFFLE;
    y += within
        + ((long long)b * height * width + row / SHUFFLE * width + column / SHUFFLE) * CHANNELS;
    bias += within;
    float planes[PLANES] = {};
    for (int p = 0; p < CHANNELS / AREA; p++)
        planes[p] = to_float(y[p * AREA]) + to_float(bias[p * AREA]);
    output += ((long long)b * height * width * AREA + row * width * SHUFFLE + column) * PLANES;
    store<PLANES, PLANES>(output, planes);
}
