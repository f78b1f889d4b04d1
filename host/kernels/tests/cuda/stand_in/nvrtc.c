// A stand-in for libnvrtc.so: what it compiles is the name of the program. STAND_IN_SYNTAX names
// a program that does not compile.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID_OPTION = 5, COMPILATION = 6 };

struct program { char name[64], image[96]; int headers; const char *log; };

int nvrtcVersion(int *major, int *minor) {
  const char *version = getenv("STAND_IN_NVRTC");
  *major = 12;
  *minor = 0;
  if (version) sscanf(version, "%d.%d", major, minor);
  return OK;
}
const char *nvrtcGetErrorString(int status) { return status == INVALID_OPTION ? "NVRTC_ERROR_INVALID_OPTION" : "NVRTC_ERROR"; }

int nvrtcCreateProgram(struct program **out, const char *source, const char *name, int headers,
                       const char *const *texts, const char *const *names) {
  *out = calloc(1, sizeof **out);
  snprintf((*out)->name, sizeof (*out)->name, "%s", name);
  (*out)->headers = headers;
  (*out)->log = "";
  for (int i = 0; i < headers; ++i)
    if (!*texts[i] || !*names[i]) return INVALID_OPTION;
  return *source ? OK : INVALID_OPTION;
}

int nvrtcCompileProgram(struct program *program, int count, const char *const *options) {
  char line[512];
  int end = snprintf(line, sizeof line, "compile %s", program->name);
  for (int i = 0; i < count; ++i) end += snprintf(line + end, sizeof line - end, " %s", options[i]);
  const char *path = getenv("STAND_IN_LOG");
  FILE *file = path ? fopen(path, "a") : NULL;
  if (file) {
    // In one piece: programs are compiled by several threads.
    fprintf(file, "%s\n", line);
    fclose(file);
  }
  const char *fails = getenv("STAND_IN_SYNTAX");
  if (fails && !strcmp(fails, program->name)) {
    program->log = "line 7: error: expected a \";\"\n";
    return COMPILATION;
  }
  snprintf(program->image, sizeof program->image, "cubin of %s", program->name);
  return OK;
}

int nvrtcGetProgramLogSize(struct program *program, size_t *bytes) { *bytes = strlen(program->log) + 1; return OK; }
int nvrtcGetProgramLog(struct program *program, char *log) { strcpy(log, program->log); return OK; }
int nvrtcGetCUBINSize(struct program *program, size_t *bytes) { *bytes = strlen(program->image); return OK; }
int nvrtcGetCUBIN(struct program *program, char *image) { memcpy(image, program->image, strlen(program->image)); return OK; }
int nvrtcDestroyProgram(struct program **program) { free(*program); *program = NULL; return OK; }
