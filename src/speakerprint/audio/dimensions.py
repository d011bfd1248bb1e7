"""What Whisper hears: 16 kHz, 80 mel bands, 100 frames a second. The one place that says so."""

SAMPLE_RATE_HZ = 16_000
N_FFT = 400  # samples that a frame sees
HOP_LENGTH = 160  # samples from one frame's start to the next's
FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_LENGTH
N_MELS = 80
MAX_FRAMES = 30 * FRAMES_PER_SECOND  # where Whisper's positions end
