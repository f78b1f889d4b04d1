// Three functions of a driver, and no more.
int cuInit(unsigned flags) { return (int)(flags & 0); }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
