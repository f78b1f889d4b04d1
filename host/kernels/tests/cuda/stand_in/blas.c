// A stand-in for libcublasLt.so: products as its documentation defines them, column-major, with
// sums in double, done when the stand-in driver gets to them. It refuses what the library refuses.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum { F32 = 0, BF16 = 14, COMPUTE_32F = 68, COMPUTE_TF32 = 77 };

extern int cuLaunchHostFunc(void *stream, void (*host)(void *), void *data);

static void say(const char *text, int a, int b, int c, int d) {
  const char *path = getenv("STAND_IN_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  fprintf(file, "%s %d %d %d %d\n", text, a, b, c, d);
  fclose(file);
}

struct product { int compute, transposed; };
struct layout { int type; uint64_t rows, columns; int64_t ld; int32_t count; int64_t step; };
struct preference { uint64_t workspace; uint32_t alignment[4]; };
struct algorithm { uint64_t alignment[4], rest[4]; };
struct choice { struct algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };

static int objects;

// STAND_IN_BLAS is its version.
size_t cublasLtGetVersion(void) {
  const char *version = getenv("STAND_IN_BLAS");
  return version ? atol(version) : 120304;
}
int cublasLtCreate(void **out) { *out = malloc(1); ++objects; return OK; }
int cublasLtDestroy(void *handle) { free(handle); say("blas objects left", --objects, 0, 0, 0); return OK; }

int cublasLtMatmulDescCreate(struct product **out, int compute, int scale) {
  if (scale != F32) return INVALID_VALUE;
  *out = malloc(sizeof **out);
  **out = (struct product){compute, 0};
  ++objects;
  return OK;
}
int cublasLtMatmulDescDestroy(void *it) { free(it); --objects; return OK; }
int cublasLtMatmulDescSetAttribute(struct product *it, int attribute, const void *value, size_t bytes) {
  if (attribute != 3 || bytes != 4) return INVALID_VALUE;
  memcpy(&it->transposed, value, 4);
  return it->transposed == 0 || it->transposed == 1 ? OK : INVALID_VALUE;
}

int cublasLtMatrixLayoutCreate(struct layout **out, int type, uint64_t rows, uint64_t columns, int64_t ld) {
  *out = malloc(sizeof **out);
  **out = (struct layout){type, rows, columns, ld, 1, 0};
  ++objects;
  return OK;
}
int cublasLtMatrixLayoutDestroy(void *it) { free(it); --objects; return OK; }
int cublasLtMatrixLayoutSetAttribute(struct layout *it, int attribute, const void *value, size_t bytes) {
  if (attribute == 5 && bytes == 4) memcpy(&it->count, value, 4);
  else if (attribute == 6 && bytes == 8) memcpy(&it->step, value, 8);
  else return INVALID_VALUE;
  return OK;
}

int cublasLtMatmulPreferenceCreate(struct preference **out) {
  *out = malloc(sizeof **out);
  **out = (struct preference){0, {256, 256, 256, 256}};
  ++objects;
  return OK;
}
int cublasLtMatmulPreferenceDestroy(void *it) { free(it); --objects; return OK; }
int cublasLtMatmulPreferenceSetAttribute(struct preference *it, int attribute, const void *value, size_t bytes) {
  if (attribute == 1 && bytes == 8) memcpy(&it->workspace, value, 8);
  else if (attribute >= 5 && attribute <= 8 && bytes == 4) memcpy(&it->alignment[attribute - 5], value, 4);
  else return INVALID_VALUE;
  return OK;
}

int cublasLtMatmulAlgoGetHeuristic(void *handle, const struct product *product, const struct layout *a,
                                   const struct layout *b, const struct layout *c, const struct layout *d,
                                   const struct preference *preference, int wanted, struct choice *out, int *found) {
  (void)handle;
  uint64_t m = product->transposed ? a->columns : a->rows, k = product->transposed ? a->rows : a->columns;
  *found = 0;
  say("plan", m, b->columns, k, d->count);
  if (wanted < 1 || a->type != b->type || c != d || a->ld < (int64_t)a->rows || b->ld < (int64_t)b->rows) return INVALID_VALUE;
  if (b->rows != k || d->rows != m || d->columns != b->columns || d->ld < (int64_t)d->rows) return INVALID_VALUE;
  if (a->count != b->count || b->count != d->count || !k) return INVALID_VALUE;
  if (a->type == F32 ? d->type != F32 : product->compute != COMPUTE_32F) return NOT_SUPPORTED;
  *out = (struct choice){.workspace = preference->workspace / 2};
  for (int i = 0; i < 4; ++i) out->algorithm.alignment[i] = preference->alignment[i];
  *found = 1;
  return OK;
}

static float load(const void *from, int type, int64_t index) {
  if (type == F32) return ((const float *)from)[index];
  uint32_t bits = (uint32_t)((const uint16_t *)from)[index] << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

static void store(void *to, int type, int64_t index, float value) {
  if (type == F32) {
    ((float *)to)[index] = value;
    return;
  }
  uint32_t bits;
  memcpy(&bits, &value, 4);
  ((uint16_t *)to)[index] = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

struct job { struct product product; struct layout a, b, d; const void *x, *y; void *out; };

static void work(void *data) {
  struct job *job = data;
  uint64_t k = job->b.rows;
  for (int32_t p = 0; p < job->d.count; ++p)
    for (uint64_t row = 0; row < job->d.rows; ++row)
      for (uint64_t column = 0; column < job->d.columns; ++column) {
        double sum = 0;
        for (uint64_t l = 0; l < k; ++l) {
          int64_t place = job->product.transposed ? l + row * job->a.ld : row + l * job->a.ld;
          sum += (double)load(job->x, job->a.type, p * job->a.step + place) *
                 load(job->y, job->b.type, p * job->b.step + l + column * job->b.ld);
        }
        store(job->out, job->d.type, p * job->d.step + row + column * job->d.ld, sum);
      }
  say(job->product.compute == COMPUTE_TF32 ? "product tf32" : "product", job->d.rows, job->d.columns, k, job->d.count);
}

int cublasLtMatmul(void *handle, const struct product *product, const float *alpha, const void *a,
                   const struct layout *a_layout, const void *b, const struct layout *b_layout, const float *beta,
                   const void *c, const struct layout *c_layout, void *d, const struct layout *d_layout,
                   const struct algorithm *algorithm, void *workspace, size_t workspace_bytes, void *stream) {
  if (!handle || *alpha != 1 || *beta != 0 || c != d || c_layout != d_layout) return INVALID_VALUE;
  if (!workspace || workspace_bytes != 16 << 20) return INVALID_VALUE;
  const void *all[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i)
    if ((uintptr_t)all[i] % algorithm->alignment[i]) return INVALID_VALUE;
  // A recording does its work again and again: its jobs stay.
  struct job *job = malloc(sizeof *job);
  *job = (struct job){*product, *a_layout, *b_layout, *d_layout, a, b, d};
  return cuLaunchHostFunc(stream, work, job) ? 13 : OK;
}
