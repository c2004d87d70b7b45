/* The few calls of MPI that are used, with plain arguments: handles and constants differ between Open MPI and MPICH, and only the
 * header knows them. Compiled by mpicc (build.rs). */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

/* 0, or what failed. */
int prospect_mpi_start(int *rank, int *size) {
    int provided = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS) return 1;
    if (provided < MPI_THREAD_SERIALIZED) return 2;
    if (MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN) != MPI_SUCCESS) return 3;
    if (MPI_Comm_rank(MPI_COMM_WORLD, rank) != MPI_SUCCESS) return 4;
    return MPI_Comm_size(MPI_COMM_WORLD, size) == MPI_SUCCESS ? 0 : 5;
}

/* Bytes of the machine's name, at most `room`. */
int prospect_mpi_host(char *name, int room) {
    char own[MPI_MAX_PROCESSOR_NAME];
    int len = 0;
    if (MPI_Get_processor_name(own, &len) != MPI_SUCCESS) return 0;
    if (len > room) len = room;
    memcpy(name, own, (size_t)len);
    return len;
}

/* Posts a message; a request for prospect_mpi_test, or NULL. The bytes must stay until it is done. */
void *prospect_mpi_send(const void *bytes, int len, int to, int tag) {
    MPI_Request *request = malloc(sizeof *request);
    if (request && MPI_Isend(bytes, len, MPI_BYTE, to, tag, MPI_COMM_WORLD, request) == MPI_SUCCESS) return request;
    free(request);
    return NULL;
}

void *prospect_mpi_receive(void *bytes, int len, int from, int tag) {
    MPI_Request *request = malloc(sizeof *request);
    if (request && MPI_Irecv(bytes, len, MPI_BYTE, from, tag, MPI_COMM_WORLD, request) == MPI_SUCCESS) return request;
    free(request);
    return NULL;
}

/* 1: done, and the request is gone; 0: under way; -1: failed. */
int prospect_mpi_test(void *request) {
    int done = 0;
    if (MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return -1;
    if (done) free(request);
    return done ? 1 : 0;
}

/* Takes a message with this tag from whoever sent one: the sender, or -1 where there is none. */
int prospect_mpi_take(int tag, void *bytes, int len) {
    int there = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, tag, MPI_COMM_WORLD, &there, &status) != MPI_SUCCESS || !there) return -1;
    if (MPI_Recv(bytes, len, MPI_BYTE, status.MPI_SOURCE, tag, MPI_COMM_WORLD, MPI_STATUS_IGNORE) != MPI_SUCCESS) return -1;
    return status.MPI_SOURCE;
}

void prospect_mpi_end(void) { MPI_Finalize(); }
