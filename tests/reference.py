"""Every method again: slow, dense, in float64, written from the papers and not from lorax/methods, to be compared with it.

Each function takes and returns whole matrices. U~ and V~ come from numpy's full SVD.
"""

from __future__ import annotations

import numpy as np

Matrix = np.ndarray


def leading(W: Matrix, r: int) -> tuple[Matrix, Matrix]:
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    return U[:, :r], Vt[:r].T


def signed(U: Matrix, V: Matrix) -> tuple[Matrix, Matrix]:
    """The SVD leaves signs open and the least-squares map depends on them: u_i's largest entry is made positive."""
    for i in range(U.shape[1]):
        if U[np.argmax(np.abs(U[:, i])), i] < 0:
            U, V = U.copy(), V.copy()
            U[:, i] *= -1
            V[:, i] *= -1
    return U, V


def copy(dW: Matrix, W_s: Matrix, W_t: Matrix, r: int) -> Matrix:
    return dW


def lorax(dW: Matrix, W_s: Matrix, W_t: Matrix, r: int) -> Matrix:
    """LoRA-X: dW_t = U~_t U~_t^T dW_s V~_t V~_t^T, after the least-squares map of a side where sizes differ."""
    U_t, V_t = leading(W_t, r)
    U_s, V_s = signed(*leading(W_s, r))
    U_t, V_t = signed(U_t, V_t)
    if len(U_s) != len(U_t):
        dW = least_squares(U_s, U_t).T @ dW
    if len(V_s) != len(V_t):
        dW = dW @ least_squares(V_s, V_t)
    return U_t @ U_t.T @ dW @ V_t @ V_t.T


def least_squares(Q_s: Matrix, Q_t: Matrix) -> Matrix:
    """P = argmin ||Q_s - P Q_t||_F, the one of least norm: P^T solves Q_t^T P^T = Q_s^T."""
    return np.linalg.lstsq(Q_t.T, Q_s.T, rcond=None)[0].T


def prolora(dW: Matrix, W_s: Matrix, W_t: Matrix, r: int) -> Matrix:
    """ProLoRA: the subspace part and the null-space part, each projected to the target's own."""
    if W_s.shape != W_t.shape:
        return lorax(dW, W_s, W_t, r)
    (P_s, Q_s), (P_t, Q_t) = projectors(W_s, r), projectors(W_t, r)
    N_s, M_s, N_t, M_t = (np.eye(len(P)) - P for P in (P_s, Q_s, P_t, Q_t))
    return P_t @ (P_s @ dW @ Q_s) @ Q_t + N_t @ (N_s @ dW @ M_s) @ M_t


def prolora_cross(dW: Matrix, W_s: Matrix, W_t: Matrix, r: int) -> Matrix:
    """ProLoRA with the two mixed parts, subspace to null space and back, kept as well."""
    if W_s.shape != W_t.shape:
        return lorax(dW, W_s, W_t, r)
    (P_s, Q_s), (P_t, Q_t) = projectors(W_s, r), projectors(W_t, r)
    N_s, M_s, N_t, M_t = (np.eye(len(P)) - P for P in (P_s, Q_s, P_t, Q_t))
    parts = [L_t @ (L_s @ dW @ R_s) @ R_t for L_s, L_t in ((P_s, P_t), (N_s, N_t)) for R_s, R_t in ((Q_s, Q_t), (M_s, M_t))]
    return sum(parts[1:], parts[0])


def projectors(W: Matrix, r: int) -> tuple[Matrix, Matrix]:
    U, V = leading(W, r)
    return U @ U.T, V @ V.T


def similarity(W_s: Matrix, W_t: Matrix) -> float:
    """(Phi - r/n) / (1 - r/n), the smaller of both sides, at r = a quarter of min(m, n)."""
    r = max(1, round(min(W_s.shape) / 4))
    sides = []
    for s, t in zip(leading(W_s, r), leading(W_t, r), strict=True):
        n = len(s)
        phi = np.linalg.norm(s.T @ t) ** 2 / r
        sides.append((phi - r / n) / (1 - r / n))
    return float(min(sides))


METHODS = {"copy": copy, "lorax": lorax, "prolora": prolora, "prolora-cross": prolora_cross}
