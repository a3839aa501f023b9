/*
 * Lets sg3-utils, which want a device node, open an iSCSI URL: loaded with LD_PRELOAD, it maps open() of
 * "iscsi://..." to a session of libiscsi and ioctl(SG_IO) to a command on it. To the tools it looks like /dev/sg*.
 *
 * The I_T nexus is always the same one: INITIATOR from SG_ISCSI_INITIATOR, a fixed ISID. So a registration that one
 * tool made is there for the next.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define SESSIONS 8
#define ATTENTIONS 3
#define SG_MAJOR 21
#define DRIVER_SENSE 8
#define DID_NO_CONNECT 1

static struct session {
	struct iscsi_context *iscsi;
	int fd, lun;
} sessions[SESSIONS];

static int is_url(const char *path) { return path && !strncmp(path, "iscsi://", 8); }

static struct session *of(int fd)
{
	for (int i = 0; i < SESSIONS; i++)
		if (sessions[i].iscsi && sessions[i].fd == fd)
			return &sessions[i];
	return NULL;
}

static int failed(struct iscsi_context *iscsi, const char *what)
{
	fprintf(stderr, "sg_iscsi: %s: %s\n", what, iscsi_get_error(iscsi));
	iscsi_destroy_context(iscsi);
	errno = EIO;
	return -1;
}

static int connect_to(const char *path)
{
	const char *name = getenv("SG_ISCSI_INITIATOR");
	struct session *session = NULL;
	struct iscsi_url *url;

	for (int i = SESSIONS - 1; i >= 0; i--)
		if (!sessions[i].iscsi)
			session = &sessions[i];
	if (!session) {
		errno = EMFILE;
		return -1;
	}
	struct iscsi_context *iscsi = iscsi_create_context(name ? name : "iqn.2026-11.io.iscsi-rp:sg3-utils");
	/* Several sessions of one process differ, or one would replace the other. */
	iscsi_set_isid_oui(iscsi, 0, (uint32_t)(session - sessions));
	if (!(url = iscsi_parse_full_url(iscsi, path)))
		return failed(iscsi, "URL");
	iscsi_set_targetname(iscsi, url->target);
	iscsi_set_session_type(iscsi, ISCSI_SESSION_NORMAL);
	iscsi_set_noautoreconnect(iscsi, 1);
	iscsi_set_timeout(iscsi, 30);
	session->lun = url->lun;
	int code = iscsi_connect_sync(iscsi, url->portal) || iscsi_login_sync(iscsi);
	iscsi_destroy_url(url);
	if (code)
		return failed(iscsi, "login");
	/* Attentions are for nobody here; a unit that is not ready may be asked why. */
	for (int i = 0; i < ATTENTIONS; i++) {
		struct scsi_task *task = iscsi_testunitready_sync(iscsi, session->lun);
		if (!task)
			return failed(iscsi, "TEST UNIT READY");
		int again = task->status == SCSI_STATUS_CHECK_CONDITION && task->sense.key == SCSI_SENSE_UNIT_ATTENTION;
		scsi_free_scsi_task(task);
		if (!again)
			break;
	}
	session->iscsi = iscsi;
	session->fd = dup(iscsi_get_fd(iscsi));
	return session->fd;
}

static int refuse(struct sg_io_hdr *io)
{
	io->host_status = DID_NO_CONNECT;
	io->info = SG_INFO_CHECK;
	return 0;
}

static int command(struct session *session, struct sg_io_hdr *io)
{
	int out = io->dxfer_direction == SG_DXFER_TO_DEV, in = io->dxfer_direction == SG_DXFER_FROM_DEV;
	int length = out || in ? (int)io->dxfer_len : 0;
	struct iscsi_data data = {.size = (size_t)length, .data = io->dxferp};

	io->status = io->masked_status = io->host_status = io->driver_status = io->sb_len_wr = 0;
	io->resid = io->info = io->duration = 0;
	if (io->interface_id != 'S' || io->iovec_count || io->cmd_len > SCSI_CDB_MAX_SIZE) {
		errno = EINVAL;
		return -1;
	}
	struct scsi_task *task = scsi_create_task(
		io->cmd_len, io->cmdp, !length ? SCSI_XFER_NONE : out ? SCSI_XFER_WRITE : SCSI_XFER_READ, length);
	if (!task || !iscsi_scsi_command_sync(session->iscsi, session->lun, task, out && length ? &data : NULL))
		return refuse(io);
	if (task->status > 0xff) {
		scsi_free_scsi_task(task);
		return refuse(io);
	}
	io->status = (unsigned char)task->status;
	io->masked_status = io->status >> 1 & 0x1f;
	if (io->status == SCSI_STATUS_CHECK_CONDITION && task->datain.size > 2) {
		/* Two bytes of length stand before the sense data (RFC 7143 11.4.7.2). */
		int sense = task->datain.size - 2;
		io->sb_len_wr = (unsigned char)(sense < io->mx_sb_len ? sense : io->mx_sb_len);
		memcpy(io->sbp, task->datain.data + 2, io->sb_len_wr);
		io->driver_status = DRIVER_SENSE;
	} else if (in && task->datain.data) {
		int got = task->datain.size < length ? task->datain.size : length;
		memcpy(io->dxferp, task->datain.data, (size_t)got);
	}
	if (task->residual_status == SCSI_RESIDUAL_UNDERFLOW)
		io->resid = (int)task->residual;
	io->info = io->status ? SG_INFO_CHECK : SG_INFO_OK;
	scsi_free_scsi_task(task);
	return 0;
}

static int on_ioctl(struct session *session, unsigned long request, void *argument)
{
	switch (request) {
	case SG_IO:
		return command(session, argument);
	case SG_GET_VERSION_NUM:
		*(int *)argument = 30536;
		return 0;
	case SG_SCSI_RESET:
		if (*(int *)argument == SG_SCSI_RESET_NOTHING)
			return 0;
		errno = EIO;
		return iscsi_task_mgmt_lun_reset_sync(session->iscsi, (uint32_t)session->lun) ? -1 : 0;
	case SG_SET_RESERVED_SIZE:
	case SG_SET_TIMEOUT:
		return 0;
	default:
		errno = ENOTTY;
		return -1;
	}
}

static int look_like_sg(struct stat *found)
{
	memset(found, 0, sizeof *found);
	found->st_mode = S_IFCHR | 0600;
	found->st_rdev = makedev(SG_MAJOR, 0);
	return 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                                                                     \
	int name(const char *path, int flags, ...)                                                                     \
	{                                                                                                              \
		va_list rest;                                                                                          \
		va_start(rest, flags);                                                                                 \
		mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;                              \
		va_end(rest);                                                                                          \
		return is_url(path) ? connect_to(path) : NEXT(name)(path, flags, mode);                                \
	}
OPEN(open)
OPEN(open64)

/* What open64() without O_CREAT is in a fortified program. */
int __open64_2(const char *path, int flags) { return open64(path, flags); }

int stat(const char *path, struct stat *found) { return is_url(path) ? look_like_sg(found) : NEXT(stat)(path, found); }

int stat64(const char *path, struct stat64 *found)
{
	return is_url(path) ? look_like_sg((struct stat *)found) : NEXT(stat64)(path, found);
}

int fstat(int fd, struct stat *found) { return of(fd) ? look_like_sg(found) : NEXT(fstat)(fd, found); }

int fstat64(int fd, struct stat64 *found)
{
	return of(fd) ? look_like_sg((struct stat *)found) : NEXT(fstat64)(fd, found);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list rest;
	va_start(rest, request);
	void *argument = va_arg(rest, void *);
	va_end(rest);
	struct session *session = of(fd);
	return session ? on_ioctl(session, request, argument) : NEXT(ioctl)(fd, request, argument);
}

int close(int fd)
{
	struct session *session = of(fd);
	if (session) {
		struct iscsi_context *iscsi = session->iscsi;
		session->iscsi = NULL;
		iscsi_logout_sync(iscsi);
		iscsi_destroy_context(iscsi);
	}
	return NEXT(close)(fd);
}
