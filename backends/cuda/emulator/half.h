// 16-bit floats: computed as float, rounded to nearest even. Included by cuda.h.

typedef _Float16 half;
struct nv_bfloat16 {
    uint16_t bits;
    nv_bfloat16() = default;
    nv_bfloat16(float value) {
        uint32_t word;
        memcpy(&word, &value, 4);
        bits = value != value ? 0x7fff : (word + 0x7fff + (word >> 16 & 1)) >> 16;
    }
    operator float() const {
        uint32_t word = (uint32_t)bits << 16;
        float value;
        memcpy(&value, &word, 4);
        return value;
    }
};
#define __float2half_rn(x) ((half)(x))
#define __float2bfloat16_rn(x) nv_bfloat16(x)
#define HALF_FUNCTION(name, function)                                                                                 \
    static inline half h##name(half x) { return (half)function((float)x); }                                           \
    static inline nv_bfloat16 h##name(nv_bfloat16 x) { return function((float)x); }
HALF_FUNCTION(exp, expf)
HALF_FUNCTION(log, logf)
HALF_FUNCTION(sqrt, sqrtf)
HALF_FUNCTION(rsqrt, rsqrtf)
HALF_FUNCTION(sin, sinf)
HALF_FUNCTION(cos, cosf)
HALF_FUNCTION(tan, tanf)
HALF_FUNCTION(atan, atanf)
HALF_FUNCTION(tanh, tanhf)
HALF_FUNCTION(erf, erff)
HALF_FUNCTION(floor, floorf)
HALF_FUNCTION(ceil, ceilf)
HALF_FUNCTION(trunc, truncf)
HALF_FUNCTION(rint, rintf)
static inline half hpow(half x, half y) { return (half)powf((float)x, (float)y); }
static inline half __hmax(half x, half y) { return max(x, y); }
static inline half __hmin(half x, half y) { return min(x, y); }

