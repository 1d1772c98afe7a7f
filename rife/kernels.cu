// Fused GPU passes in CUDA C: a block's input, what follows a convolution, the finished frame.
//
// Neither flow nor a warped frame is ever stored at full size: flow and mask are evaluated where
// they are needed, from the planes that each block put out at its own size; sampling, the mean of
// 2x2 pixels and the changes of layout and dtype happen in registers. Each thread computes one
// pixel, on its own. All arithmetic is float32.
//
// kernels_nvrtc.py launches these, NVRTC compiles them, and engine.py says the same in plain torch.
// The tests compile this file for the CPU.

#ifdef __CUDACC__  // NVRTC knows no header, and so no name for these two instructions
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

/// Of a block of threads; without the bound, no thread could have more than 64 registers.
#define KERNEL __global__ void __launch_bounds__(128)

// What tensors hold

struct Half { unsigned short bits; };
struct BFloat16 { unsigned short bits; };

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(Half value) { return half_bits_to_float(value.bits); }
__device__ inline float to_float(BFloat16 value) {
    return __uint_as_float((unsigned)value.bits << 16);
}
/// Bytes stand for [0, 1].
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

// Memory, as many values at once as a thread can move

template <int BYTES> struct Word;
template <> struct Word<16> { using type = uint4; };
template <> struct Word<8> { using type = uint2; };
template <> struct Word<4> { using type = unsigned; };
template <> struct Word<2> { using type = unsigned short; };
template <> struct Word<1> { using type = unsigned char; };

/// N values that lie together, at an address that is a multiple of their size.
template <class T, int N> union Pack {
    typename Word<N * sizeof(T)>::type word;
    T values[N];
};

/// How many of `count` values move at once: up to 16 bytes.
template <class T> __device__ constexpr int pack_size(int count) {
    constexpr int most = 16 / sizeof(T);
    const int power_of_two = count & -count;
    return power_of_two < most ? power_of_two : most;
}

template <int N, class T> __device__ inline void load(const T* source, float (&values)[N]) {
    constexpr int PACK = pack_size<T>(N);
    for (int first = 0; first < N; first += PACK) {
        Pack<T, PACK> pack;
        pack.word = *(const decltype(pack.word)*)(source + first);
        for (int c = 0; c < PACK; c++) values[first + c] = to_float(pack.values[c]);
    }
}

template <int N, class T> __device__ inline void store(T* target, const float (&values)[N]) {
    constexpr int PACK = pack_size<T>(N);
    for (int first = 0; first < N; first += PACK) {
        Pack<T, PACK> pack;
        for (int c = 0; c < PACK; c++) from_float(values[first + c], pack.values[c]);
        *(decltype(pack.word)*)(target + first) = pack.word;
    }
}

// What blocks put out

/// One block's output: planes of flow (4, in pixels of the block), of the mask and of what else is
/// handed over, (B, h, w, CHANNELS) as they are before a PixelShuffle(CELL); then bilinearly made
/// FACTOR times larger for the frame, by which flow grows, too.
template <class T, int CHANNELS, int CELL, int FACTOR> struct BlockOutput {
    const T* planes;

    /// Where the planes of the b-th pair begin; height, width: of the frame.
    __device__ const T* of_pair(int b, int height, int width) const {
        const int size = (height / FACTOR / CELL) * (width / FACTOR / CELL) * CHANNELS;
        return planes + (long long)b * size;
    }
};

/// Of a row or column of shuffled planes: where its values begin among those of the row of cells.
template <int CHANNELS, int CELL> __device__ inline int offset_of(int column) {
    return column / CELL * CHANNELS + column % CELL;
}
template <int CHANNELS, int CELL> __device__ inline int offset_of(int row, int width) {
    return row / CELL * (width / CELL) * CHANNELS + row % CELL * CELL;
}

/// COUNT planes from plane FIRST on, made FACTOR times larger, at (y, x) of the larger grid.
/// height, width: of the planes.
template <int FIRST, int COUNT, int CHANNELS, int CELL, int FACTOR, class T>
__device__ inline void
upsample(const T* planes, int y, int x, int height, int width, float (&values)[COUNT]) {
    planes += FIRST * CELL * CELL;
    if constexpr (FACTOR == 1) {
        planes += offset_of<CHANNELS, CELL>(y, width) + offset_of<CHANNELS, CELL>(x);
        for (int p = 0; p < COUNT; p++) values[p] = to_float(planes[p * CELL * CELL]);
        return;
    }
    const float v = fmaxf((y + 0.5f) * (1.0f / FACTOR) - 0.5f, 0.0f);
    const float u = fmaxf((x + 0.5f) * (1.0f / FACTOR) - 0.5f, 0.0f);
    const int top = (int)v, left = (int)u;
    const float down = v - top, right = u - left;
    const T* above = planes + offset_of<CHANNELS, CELL>(top, width);
    const T* below = planes + offset_of<CHANNELS, CELL>(min(top + 1, height - 1), width);
    const int here = offset_of<CHANNELS, CELL>(left);
    const int next = offset_of<CHANNELS, CELL>(min(left + 1, width - 1));
    for (int p = 0; p < COUNT; p++, above += CELL * CELL, below += CELL * CELL) {
        const float upper = to_float(above[here]) * (1 - right) + to_float(above[next]) * right;
        const float lower = to_float(below[here]) * (1 - right) + to_float(below[next]) * right;
        values[p] = upper * (1 - down) + lower * down;
    }
}

/// From the pixel in between to the first and to the second frame, in pixels.
struct Flow {
    float x0, y0, x1, y1;
};

template <class T, int CHANNELS, int CELL, int FACTOR>
__device__ inline void add_flow(
    BlockOutput<T, CHANNELS, CELL, FACTOR> output, int b, int y, int x, int height, int width,
    Flow& flow
) {
    float values[4];
    const T* planes = output.of_pair(b, height, width);
    upsample<0, 4, CHANNELS, CELL, FACTOR>(planes, y, x, height / FACTOR, width / FACTOR, values);
    flow.x0 += FACTOR * values[0];
    flow.y0 += FACTOR * values[1];
    flow.x1 += FACTOR * values[2];
    flow.y1 += FACTOR * values[3];
}

/// The sum of what all blocks put out, at (y, x) of the frame.
template <class... Outputs>
__device__ inline Flow total_flow(int b, int y, int x, int height, int width, Outputs... outputs) {
    Flow flow = {0, 0, 0, 0};
    (add_flow(outputs, b, y, x, height, width, flow), ...);
    return flow;
}

template <bool ADDS, int SCALE, int COUNT, class T, int CHANNELS, int CELL, int FACTOR>
__device__ inline void add_handed(
    BlockOutput<T, CHANNELS, CELL, FACTOR> output, int b, int y, int x, int height, int width,
    float (&handed)[COUNT]
) {
    float values[COUNT];
    const T* planes = output.of_pair(b, height, width);
    upsample<4, COUNT, CHANNELS, CELL, FACTOR / SCALE>(
        planes, y, x, height / FACTOR, width / FACTOR, values
    );
    for (int p = 0; p < COUNT; p++) handed[p] = ADDS ? handed[p] + values[p] : values[p];
}

/// The mask before its sigmoid and what else is handed over, by the last block or as the sum of all
/// (ADDS), at (y, x) of the frame made SCALE times smaller.
template <bool ADDS, int SCALE, int COUNT, class... Outputs>
__device__ inline void handed_over(
    int b, int y, int x, int height, int width, float (&handed)[COUNT], Outputs... outputs
) {
    for (int p = 0; p < COUNT; p++) handed[p] = 0;
    (add_handed<ADDS, SCALE>(outputs, b, y, x, height, width, handed), ...);
}

// Frames

/// Adds `weight` times N of a pixel's CHANNELS, from the one that `image` points to, at any (y, x),
/// bilinearly; the border repeats.
template <int CHANNELS, int N, class T>
__device__ inline void add_sample(
    const T* image, float y, float x, int height, int width, float weight, float (&sum)[N]
) {
    y = fminf(fmaxf(y, 0.0f), height - 1.0f);  // of NaN, 0
    x = fminf(fmaxf(x, 0.0f), width - 1.0f);
    const int top = (int)y, left = (int)x;
    const int bottom = min(top + 1, height - 1), right = min(left + 1, width - 1);
    const float down = y - top, over = x - left;
    float a[N], b[N], c[N], d[N];
    load<N>(image + (top * width + left) * CHANNELS, a);
    load<N>(image + (top * width + right) * CHANNELS, b);
    load<N>(image + (bottom * width + left) * CHANNELS, c);
    load<N>(image + (bottom * width + right) * CHANNELS, d);
    for (int i = 0; i < N; i++) {
        const float upper = a[i] * (1 - over) + b[i] * over;
        const float lower = c[i] * (1 - over) + d[i] * over;
        sum[i] += weight * (upper * (1 - down) + lower * down);
    }
}

// Kernels. Grids are (columns, rows, pairs).

/// A block's input, (B, height / SCALE, width / SCALE, SIZE): of both frames CHANNELS each if
/// WARPED, then if STILL; then the timestep, HANDED planes, the flow and zeros.
///
/// Making a frame SCALE times smaller is, exactly, the mean of the 2x2 pixels in the middle of each
/// cell, so only those are ever looked at.
///
/// frames: (N, height, width, CHANNELS). first, second: (B,), which of them. times: (B,).
template <
    class T, int SCALE, int CHANNELS, bool WARPED, bool STILL, bool TIME, int HANDED, bool FLOW,
    bool ADDS, int SIZE, class... Outputs>
KERNEL gather_block_input(
    T* __restrict__ input, const T* __restrict__ frames, const long long* first,
    const long long* second, const float* times, int height, int width, Outputs... outputs
) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int b = blockIdx.z;
    if (x >= width / SCALE || y >= height / SCALE) return;

    constexpr int SIDE = SCALE > 1 ? 2 : 1;
    constexpr int PIXELS = SIDE * SIDE;
    constexpr float MEAN = 1.0f / PIXELS;
    constexpr bool MOVES = sizeof...(Outputs) > 0;
    const int top = y * SCALE + (SCALE - SIDE) / 2, left = x * SCALE + (SCALE - SIDE) / 2;
    const T* both[2] = {
        frames + first[b] * height * width * CHANNELS,
        frames + second[b] * height * width * CHANNELS,
    };
    const int row = y * (width / SCALE);
    T* target = input + ((long long)b * (height / SCALE) * (width / SCALE) + row + x) * SIZE;

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

    constexpr int PACK = pack_size<T>(CHANNELS);
#pragma unroll
    for (int part = WARPED ? 0 : 2; part < (STILL ? 4 : 2); part++) {
        const int k = part % 2;
        const bool warps = part < 2 && MOVES;
#pragma unroll
        for (int channel = 0; channel < CHANNELS; channel += PACK) {
            float sum[PACK] = {};
#pragma unroll
            for (int i = 0; i < PIXELS; i++) {
                float at_y = top + i / SIDE, at_x = left + i % SIDE;
                if (warps) {
                    at_y += k ? flows[i].y1 : flows[i].y0;
                    at_x += k ? flows[i].x1 : flows[i].x0;
                    add_sample<CHANNELS>(both[k] + channel, at_y, at_x, height, width, MEAN, sum);
                } else {
                    float pixel[PACK];
                    const int at = (top + i / SIDE) * width + left + i % SIDE;
                    load<PACK>(both[k] + at * CHANNELS + channel, pixel);
                    for (int c = 0; c < PACK; c++) sum[c] += MEAN * pixel[c];
                }
            }
            store<PACK>(target + channel, sum);
        }
        target += CHANNELS;
    }

    constexpr int REST = SIZE - 2 * CHANNELS * (WARPED + STILL);
    if constexpr (REST > 0) {
        float rest[REST] = {};
        if constexpr (TIME) rest[0] = times[b];
        if constexpr (HANDED > 0) {
            float handed[HANDED];
            handed_over<ADDS, SCALE>(b, y, x, height, width, handed, outputs...);
            for (int p = 0; p < HANDED; p++) rest[TIME + p] = handed[p];
        }
        if constexpr (FLOW) {
            rest[TIME + HANDED] = mean.x0 * (1.0f / SCALE);
            rest[TIME + HANDED + 1] = mean.y0 * (1.0f / SCALE);
            rest[TIME + HANDED + 2] = mean.x1 * (1.0f / SCALE);
            rest[TIME + HANDED + 3] = mean.y1 * (1.0f / SCALE);
        }
        store<REST>(target, rest);
    }
}

/// Finished frames, (B, height, width, CHANNELS): both images warped and blended, the residual,
/// (B, 3, motion_height, motion_width), added. Motion goes beyond the images on the right and
/// below, where they repeat their border.
///
/// images: (N, height, width, CHANNELS). first, second: (B,), which of them.
template <class T, int CHANNELS, bool RESIDUAL, bool ADDS, class... Outputs>
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
    float mask[1];
    handed_over<ADDS, 1>(b, y, x, motion_height, motion_width, mask, outputs...);
    const float share = 1 / (1 + expf(-mask[0]));
    float frame[CHANNELS] = {};
    add_sample<CHANNELS>(
        images + first[b] * size, y + flow.y0, x + flow.x0, height, width, share, frame
    );
    add_sample<CHANNELS>(
        images + second[b] * size, y + flow.y1, x + flow.x1, height, width, 1 - share, frame
    );
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
    store<CHANNELS>(frames + b * size + (y * width + x) * CHANNELS, frame);
}

/// Flow in pixels and the mask before its sigmoid, (B, 5, height, width).
template <bool ADDS, class... Outputs>
KERNEL full_size_motion(float* motion, int height, int width, Outputs... outputs) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int b = blockIdx.z;
    if (x >= width || y >= height) return;

    const int plane = height * width;
    const Flow flow = total_flow(b, y, x, height, width, outputs...);
    float mask[1];
    handed_over<ADDS, 1>(b, y, x, height, width, mask, outputs...);
    motion += (long long)b * 5 * plane + y * width + x;
    motion[0] = flow.x0;
    motion[plane] = flow.y0;
    motion[2 * plane] = flow.x1;
    motion[3 * plane] = flow.y1;
    motion[4 * plane] = mask[0];
}

/// In place: y + bias (+ residual), times the channel's slope where that is below zero. Each thread
/// does N values that lie together; `count` such packs, `channels` of them in a pixel.
template <class T, int N, bool RESIDUAL, bool SLOPES>
KERNEL finish_convolution(
    T* y, const T* residual, const T* bias, const T* slopes, unsigned count, unsigned channels
) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const unsigned channel = i % channels * N;
    y += (unsigned long long)i * N;
    float values[N], other[N];
    load<N>(y, values);
    load<N>(bias + channel, other);
    for (int c = 0; c < N; c++) values[c] += other[c];
    if constexpr (RESIDUAL) {
        load<N>(residual + (unsigned long long)i * N, other);
        for (int c = 0; c < N; c++) values[c] += other[c];
    }
    if constexpr (SLOPES) {
        load<N>(slopes + channel, other);
        for (int c = 0; c < N; c++) values[c] *= values[c] < 0 ? other[c] : 1.0f;
    }
    store<N>(y, values);
}
