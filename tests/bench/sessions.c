/*
 * Several sessions at once from one process: `sessions SECONDS DEPTH READS DIGEST URL...`.
 *
 * A session for each URL, each with DEPTH random 4 KiB commands in flight, READS percent of them reads; DIGEST is 1 for
 * header digests, else 0. Prints a line for each session: how many commands it had answered.
 */
#include <inttypes.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCK 512
#define BLOCKS 8
#define SIZE (BLOCK * BLOCKS)
#define MOST 16
#define DEEPEST 128

struct session {
	struct iscsi_context *iscsi;
	int lun, in_flight;
	uint64_t places, done;
	unsigned int seed;
};

struct slot {
	struct session *session;
	struct scsi_iovec iovec;
	unsigned char data[SIZE];
};

static unsigned char pattern[SIZE];
static double ends;
static int reads;

static double now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void die(struct session *session, const char *what)
{
	fprintf(stderr, "%s: %s\n", what, iscsi_get_error(session->iscsi));
	exit(1);
}

static void start(struct slot *slot);

static void ended(struct iscsi_context *iscsi, int status, void *task, void *private_data)
{
	struct slot *slot = private_data;
	(void)iscsi;
	if (status != SCSI_STATUS_GOOD)
		die(slot->session, "a command failed");
	scsi_free_scsi_task(task);
	slot->session->in_flight--;
	slot->session->done++;
	if (now() < ends)
		start(slot);
}

static void start(struct slot *slot)
{
	struct session *session = slot->session;
	uint64_t lba = (uint64_t)rand_r(&session->seed) % session->places * BLOCKS;
	struct scsi_task *task;

	if (rand_r(&session->seed) % 100 < reads)
		task = iscsi_read16_iov_task(session->iscsi, session->lun, lba, SIZE, BLOCK, 0, 0, 0, 0, 0, ended, slot,
					     &slot->iovec, 1);
	else
		task = iscsi_write16_task(session->iscsi, session->lun, lba, pattern, SIZE, BLOCK, 0, 0, 0, 0, 0, ended,
					  slot);
	if (!task)
		die(session, "queue");
	session->in_flight++;
}

static void log_in(struct session *session, const char *text, int number, int digest)
{
	char name[64];
	snprintf(name, sizeof name, "iqn.2026-11.io.iscsi-rp:bench-%d", number);
	session->iscsi = iscsi_create_context(name);
	struct iscsi_url *url = iscsi_parse_full_url(session->iscsi, text);
	if (!url)
		die(session, text);
	iscsi_set_targetname(session->iscsi, url->target);
	iscsi_set_session_type(session->iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_header_digest(session->iscsi, digest ? ISCSI_HEADER_DIGEST_CRC32C : ISCSI_HEADER_DIGEST_NONE);
	iscsi_set_noautoreconnect(session->iscsi, 1);
	session->lun = url->lun;
	session->seed = (unsigned int)number;
	if (iscsi_full_connect_sync(session->iscsi, url->portal, url->lun))
		die(session, "login");
	struct scsi_task *task = iscsi_readcapacity16_sync(session->iscsi, url->lun);
	struct scsi_readcapacity16 *capacity = task ? scsi_datain_unmarshall(task) : NULL;
	if (!capacity)
		die(session, "capacity");
	session->places = (capacity->returned_lba + 1) / BLOCKS;
	scsi_free_scsi_task(task);
	iscsi_destroy_url(url);
}

int main(int count, char **arguments)
{
	static struct session sessions[MOST];
	static struct slot slots[MOST][DEEPEST];
	struct pollfd polled[MOST];
	int many = count - 5, depth = count > 5 ? atoi(arguments[2]) : 0, busy = 1;

	if (many < 1 || many > MOST || depth < 1 || depth > DEEPEST) {
		fprintf(stderr, "usage: sessions SECONDS DEPTH READS DIGEST URL...\n");
		return 2;
	}
	reads = atoi(arguments[3]);
	for (int i = 0; i < many; i++)
		log_in(&sessions[i], arguments[5 + i], i + 1, atoi(arguments[4]));
	memset(pattern, 0xa5, SIZE);
	ends = now() + atof(arguments[1]);
	for (int i = 0; i < many; i++)
		for (int j = 0; j < depth; j++) {
			slots[i][j].session = &sessions[i];
			slots[i][j].iovec = (struct scsi_iovec){slots[i][j].data, SIZE};
			start(&slots[i][j]);
		}
	while (busy) {
		busy = 0;
		for (int i = 0; i < many; i++) {
			polled[i].fd = iscsi_get_fd(sessions[i].iscsi);
			polled[i].events = (short)iscsi_which_events(sessions[i].iscsi);
		}
		if (poll(polled, (nfds_t)many, 1000) < 0)
			return 1;
		for (int i = 0; i < many; i++) {
			if (polled[i].revents && iscsi_service(sessions[i].iscsi, polled[i].revents))
				die(&sessions[i], "connection");
			busy += sessions[i].in_flight;
		}
	}
	for (int i = 0; i < many; i++)
		printf("%" PRIu64 "\n", sessions[i].done);
	return 0;
}
