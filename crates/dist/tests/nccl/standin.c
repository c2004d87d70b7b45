/* Stands for NCCL and for NVIDIA's driver where neither is: device memory is the host's, a communicator is a folder that its id
 * names, a message a file in it. For ranks that are threads or processes of one machine, in tests only. As NCCL does, it begins
 * things and is asked how they go; unlike NCCL, it sends without waiting for whoever receives. */
#include <dirent.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { Success = 0, InvalidArgument = 4, InvalidUsage = 5, InProgress = 7, NotReady = 600 };

typedef struct { char folder[128]; } Id;
typedef struct { size_t size; unsigned magic, version; int blocking; } Config;

struct Receive { char file[PATH_MAX]; char *into; size_t len; struct Receive *next; };
/* What is still to be received on a stream. */
struct Stream { struct Receive *first; };
struct Communicator { char folder[128]; int size, rank; long *sent, *received; };
/* What a group has posted: its messages begin together. */
struct Posted { struct Communicator *over; struct Stream *on; char *at; size_t len; int peer, sends; };
static _Thread_local struct Posted posted[4096];
static _Thread_local int count, grouped, entered;

int cuInit(unsigned flags) { return flags != 0; }
int cuDeviceGetCount(int *n) { *n = 8; return 0; }
int cuDeviceGet(int *device, int n) { *device = n; return 0; }
int cuDevicePrimaryCtxRetain(uintptr_t *context, int device) { *context = 0x100 + (uintptr_t)device; return 0; }
int cuCtxSetCurrent(uintptr_t context) { entered = context >= 0x100; return !entered; }
int cuMemAlloc_v2(uint64_t *at, size_t len) {
    char *room = entered ? malloc(len) : NULL;
    if (!room) return 2;
    memset(room, 0xa5, len);
    *at = (uint64_t)(uintptr_t)room;
    return 0;
}
int cuMemFree_v2(uint64_t at) { free((void *)(uintptr_t)at); return 0; }
int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t len) { if (!entered) return 201; memcpy((void *)(uintptr_t)to, from, len); return 0; }
int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t len) { if (!entered) return 201; memcpy(to, (void *)(uintptr_t)from, len); return 0; }
int cuStreamCreate(struct Stream **stream, unsigned flags) { (void)flags; *stream = calloc(1, sizeof **stream); return *stream == NULL; }

int cuStreamQuery(struct Stream *stream) {
    for (struct Receive **at = &stream->first; *at;) {
        struct Receive *one = *at;
        FILE *file = fopen(one->file, "rb");
        if (!file) { at = &one->next; continue; }
        size_t found = fread(one->into, 1, one->len, file);
        int more = fgetc(file) != EOF;
        fclose(file);
        unlink(one->file);
        if (found != one->len || more) return 1;
        *at = one->next;
        free(one);
    }
    return stream->first ? NotReady : 0;
}

const char *ncclGetErrorString(int code) { return code == InvalidUsage ? "invalid usage" : "unhandled error"; }
int ncclGetVersion(int *version) { *version = 21805; return Success; }

int ncclGetUniqueId(Id *id) {
    memset(id, 0, sizeof *id);
    snprintf(id->folder, sizeof id->folder, "%s/nccl-standin-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    return mkdtemp(id->folder) ? Success : InvalidUsage;
}

static void write_file(const char *path, const void *bytes, size_t len) {
    char half[PATH_MAX];
    snprintf(half, sizeof half, "%s.half", path);
    FILE *file = fopen(half, "wb");
    if (!file || fwrite(bytes, 1, len, file) != len || fclose(file) || rename(half, path)) abort();
}

int ncclCommInitRankConfig(struct Communicator **comm, int size, Id id, int rank, const Config *config) {
    if (config->magic != 0xcafebeef || config->size < sizeof *config || config->blocking != 0 || rank >= size) return InvalidArgument;
    if (!entered) return InvalidUsage;
    struct Communicator *own = calloc(1, sizeof *own);
    memcpy(own->folder, id.folder, sizeof own->folder);
    own->size = size, own->rank = rank;
    own->sent = calloc((size_t)size, sizeof(long)), own->received = calloc((size_t)size, sizeof(long));
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/rank-%d", own->folder, rank);
    write_file(path, "", 0);
    *comm = own;
    return InProgress;
}

/* Under way until every rank has come. */
int ncclCommGetAsyncError(struct Communicator *comm, int *state) {
    char path[PATH_MAX];
    *state = Success;
    for (int rank = 0; rank < comm->size; rank++) {
        snprintf(path, sizeof path, "%s/rank-%d", comm->folder, rank);
        if (access(path, F_OK)) *state = InProgress;
    }
    return Success;
}

static int post(struct Posted one) {
    if (!grouped || count == 4096 || one.peer < 0 || one.peer >= one.over->size || one.peer == one.over->rank) return InvalidUsage;
    posted[count++] = one;
    return Success;
}

/* One byte is ncclUint8. */
int ncclSend(uint64_t at, size_t len, int type, int peer, struct Communicator *over, struct Stream *on) {
    return type == 1 ? post((struct Posted){over, on, (char *)(uintptr_t)at, len, peer, 1}) : InvalidArgument;
}
int ncclRecv(uint64_t at, size_t len, int type, int peer, struct Communicator *over, struct Stream *on) {
    return type == 1 ? post((struct Posted){over, on, (char *)(uintptr_t)at, len, peer, 0}) : InvalidArgument;
}
int ncclGroupStart(void) { count = 0; return grouped++ ? InvalidUsage : Success; }
int ncclGroupEnd(void) {
    grouped--;
    for (int i = 0; i < count; i++) {
        struct Posted *one = &posted[i];
        char path[PATH_MAX];
        int from = one->sends ? one->over->rank : one->peer, to = one->sends ? one->peer : one->over->rank;
        long number = (one->sends ? one->over->sent : one->over->received)[one->peer]++;
        snprintf(path, sizeof path, "%s/%d-to-%d-%ld", one->over->folder, from, to, number);
        if (one->sends) {
            write_file(path, one->at, one->len);
            continue;
        }
        struct Receive *receive = calloc(1, sizeof *receive);
        strcpy(receive->file, path);
        receive->into = one->at, receive->len = one->len, receive->next = one->on->first;
        one->on->first = receive;
    }
    return InProgress;
}

int ncclCommAbort(struct Communicator *comm) { (void)comm; return Success; }
int ncclCommFinalize(struct Communicator *comm) { (void)comm; return InProgress; }
/* The last one takes the folder along. */
int ncclCommDestroy(struct Communicator *comm) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/gone-%d", comm->folder, comm->rank);
    write_file(path, "", 0);
    for (int rank = 0; rank < comm->size; rank++) {
        snprintf(path, sizeof path, "%s/gone-%d", comm->folder, rank);
        if (access(path, F_OK)) return Success;
    }
    DIR *folder = opendir(comm->folder);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        snprintf(path, sizeof path, "%s/%s", comm->folder, entry->d_name);
        unlink(path);
    }
    if (folder) closedir(folder);
    rmdir(comm->folder);
    return Success;
}
